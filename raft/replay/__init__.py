"""What another selection would have kept, from stored responses and scores: no model runs."""
