"""What systems over clips read: records, frames at even times, features of frames and texts."""
