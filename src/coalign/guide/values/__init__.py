"""Questionnaires on values, put to models: items, asking in every order, scoring, the page."""
