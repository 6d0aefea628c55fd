"""Search for the schedule of visual tokens over the layers of a language model that loses least within a budget."""
