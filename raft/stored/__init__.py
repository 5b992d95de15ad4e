"""Select again from stored responses and scores with other settings, without running a model."""
