"""Measuring edits: against the truth where there is one, and by the papers' own protocols.

    bench        rendered scenes whose every edit has a true answer: any method, any inversion
                 (`cases`, `scores`, `success`, `bench_report`, `contact_sheets`)
    pie_bench    PIE-Bench's format and its seven metrics, every quirk of the released harness a switch
                 (`pie_format`, `pie_tables`)
    subjects     DreamBooth's, Custom Diffusion's and Textual Inversion's protocols over folders of subjects
                 (`subjects_format`, `subjects_protocols`, `subjects_published`, `subjects_report`)
    directional  InstructPix2Pix's curve: how much of the picture stays against how far it goes with the words
                 (`directional_plot`)
    compare      one edit, several methods, side by side (`comparison`, `labelled_grid`)
    study        people's answers, asked in a browser

Scores by what they look at: `pixels`, `perceptual`, `structure`, `similarity`, `distribution`, and `reader`, which
says what a picture of the built-in world shows. `backbones` loads the networks behind them, `row_count` says what a
method spent. `records`, `statistics` and `tables` keep and show the results.
"""
