"""Retrieval of clips by texts and of texts by clips: interaction, losses, scoring of whole collections, training, report."""
