"""What `coalign data check` finds in records before anything is trained on them."""
