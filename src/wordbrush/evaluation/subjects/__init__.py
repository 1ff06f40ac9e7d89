"""DreamBooth's, Custom Diffusion's and Textual Inversion's protocols over folders of subjects."""
