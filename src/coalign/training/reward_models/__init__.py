"""Reward models: a scalar head on any encoder of texts, learnt from what people prefer."""
