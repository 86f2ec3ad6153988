"""The RSNA 2019 task at work: build, train, evaluate, blend, prepare."""
