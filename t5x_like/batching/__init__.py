"""Functions of whole batches of rows on a mesh: any jitted function, generation until every row has ended, embeddings."""
