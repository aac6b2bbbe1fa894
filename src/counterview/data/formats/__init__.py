"""The layouts of data on disk that :func:`counterview.data.open_dataset` opens: the release, prepared, HANDAL."""
