"""The worker: takes studies from an Orthanc or a folder, and sends results to a PACS."""
