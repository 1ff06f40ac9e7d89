"""Measuring edits: against the true answer where there is one, and by the papers' own protocols.

    bench/        rendered scenes whose every edit has a true answer: cases, run, scores, success, report, sheets
    pie/          PIE-Bench's format and its seven metrics, each quirk of the released harness an option:
                  options, format, metrics, run, report
    subjects/     DreamBooth's, Custom Diffusion's and Textual Inversion's protocols over folders of subjects:
                  format, protocols, published, run, report; pocket/ trains and compares where the truth is known
    directional/  InstructPix2Pix's curve, how far an edit follows the words against how much stays the same:
                  cases, run, curve, plot
    compare/      one edit by several methods, side by side: request, run, score, result, grid, report
    study/        people's answers, asked in a browser

    contender     an editing method after an inversion; how every protocol edits and saves
    judges/       the networks that score: `judges` holds them as one value and loads them, `backbones` and `reader`
                  are the networks
    metrics/      scores by what they compare: pixels, perceptual, structure, similarity, distribution
    results/      what every protocol does with its scores: statistics, tables, plots, cost

In each protocol's folder `run` edits and scores, and `report` (`plot` for directional) writes the tables.
"""
