"""The static results page: folders of runs in, one HTML page and its images out."""
