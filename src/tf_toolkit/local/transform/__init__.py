"""``tf-toolkit transform``: files, or objects of S3, through the models of a folder, as in a batch transform.

options.py says what can be given, and run.py is the whole: server.py starts ``serve`` as a process, records.py makes
payloads of files, processing.py filters and joins, sending.py asks, work.py keeps the order, and outputs.py has files
come to be whole.
"""
