"""Convert preference data of every published form to `rewards.data.pair.Pair`.

`formats` tells which form a row has, `converters` make pairs of a row or say why there are none,
`read` reads files and counts what became of their rows.
"""
