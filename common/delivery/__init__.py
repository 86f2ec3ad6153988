"""Result objects in DICOM beside the images that they are about, valid whatever those lack."""
