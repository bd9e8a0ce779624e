"""Pictures, clips or tables and the texts beside them: encoders of both, their similarity, who finds whom."""
