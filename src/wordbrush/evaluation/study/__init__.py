"""People's answers, asked in a browser: Prompt-to-Prompt's ratings, DreamBooth's forced choice, rankings.

design      a study as a folder: its settings, its pictures, its questions
assignment  who sees what in which order: balanced, blinded, by seed; and which pages check the attention
checks      who paid attention, by what they said of those
forms       what was filled in, as answers
store       where answers go: SQLite, on the disk before the next page is shown
app         the pages, made on the server
agreement   Krippendorff's alpha, Wilson's interval
report      the tables of the papers
plot        the same as bars
export      one row an answer: CSV, Parquet
"""
