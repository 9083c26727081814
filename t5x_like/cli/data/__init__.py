"""Commands that prepare texts: cleaning, training a tokenizer, building and printing token caches."""
