"""The data sets that come with the package, as .npz files; NOTICE beside them says whose they are."""
