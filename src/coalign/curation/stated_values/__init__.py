"""Values that a system message states: hierarchies, system messages written from them, policies that follow them."""
