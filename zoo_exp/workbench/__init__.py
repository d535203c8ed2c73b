"""One image and one question under several selectors, on the command line and in a local web page."""
