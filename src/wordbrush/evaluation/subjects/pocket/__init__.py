"""Personalisation on the built-in world, where the true picture of every prompt is known.

world     the subjects: what is held out of the model's training, its pictures, prompts and true renderings
variants  the ways to teach a subject, one line each
making    trains, and makes the pictures: a folder for each way, as `subjects.format` reads it
scores    a folder's scores by the papers' protocols, and by the truth
claims    what the papers claim to be better, and whether it is here
report    the tables, with every row of the papers' beside ours; the plot
gallery   sheets of the pictures, and a forced-choice study of them
"""
