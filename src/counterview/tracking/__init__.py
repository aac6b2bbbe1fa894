"""Follow objects through several cameras: memory, place, smoothing, and a list of what to check. Ours.

An *engine* (:class:`~counterview.tracking.base.Engine`) takes the images of all cameras at one time after the other,
and says where each object is. :mod:`counterview.inference` reads videos and prompts, and runs it.
"""
