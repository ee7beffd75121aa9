"""Images and labels in: folders, file lists, data sets that come with the library, transforms."""
