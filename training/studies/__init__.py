"""What is measured of texts and networks beside training: n-grams, statistics, gradients, comparisons."""
