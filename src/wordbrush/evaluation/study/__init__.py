"""User studies in a browser: Prompt-to-Prompt's ratings, DreamBooth's forced choice, rankings.

design      a study's folder: settings, pictures, questions
assignment  the pages of each rater and their order: balanced, blinded, seeded; the attention checks
checks      which raters failed an attention check
forms       form fields to answers, and back
store       the answers in SQLite, on the disk before the next page is shown
app         the pages, rendered on the server
guesses     slows down whoever guesses tokens
server      what serves them: time limits and a limited number of connections
agreement   Krippendorff's alpha, Wilson's interval
report      the tables of the papers
plot        the tables as bar charts
export      one row per answer: CSV, Parquet
"""
