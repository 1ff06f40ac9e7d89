"""Many jobs from one file: what they are, what became of each, and a loop over them that a failing one does not stop.

reading  rows of JSONL or CSV → `Job`s
ledger   what became of each job, on the disk, for several processes
run      the loop
"""
