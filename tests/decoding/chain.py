"""A language model that is a table: trees whose logits depend on the last token alone."""

from __future__ import annotations

import torch

from coalign.models.scoring.token_tree import ROOT


class Chain:
    """Trees over a table of logits after each token."""

    def __init__(self, table):
        self.table = torch.tensor(table, dtype=torch.float64)

    def start(self, prompts):
        self.rows = [[] for _ in prompts]
        return self.table[[one[-1] for one in prompts]]

    def grow(self, rows, parents, tokens):
        nodes = []
        for row, parent, token in zip(rows, parents, tokens, strict=True):
            assert parent == ROOT or parent < len(self.rows[row])
            nodes.append(len(self.rows[row]))
            self.rows[row].append(token)
        return nodes, self.table[list(tokens)]

    def keep(self, rows, paths):
        self.rows = [[self.rows[row][node] for node in path] for row, path in zip(rows, paths, strict=True)]
