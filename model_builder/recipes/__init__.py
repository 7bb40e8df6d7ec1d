"""What a user writes: every recipe's structs and their reading. Imports nothing that trains.

Not here: networks, training, and defaults that depend on the data.
"""
