"""Speed: every artefact of a bundle and other engines, each in a process of its own, alternating in one run."""
