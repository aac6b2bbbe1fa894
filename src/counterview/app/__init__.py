"""The page in the browser: ``counterview serve``, on Gradio.

:mod:`counterview.app.server` answers requests, :mod:`counterview.app.build` puts the page together, and each tab has a
module that builds it. What a tab computes knows nothing of Gradio and can be tested without it.
"""
