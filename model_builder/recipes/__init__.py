"""What a user writes: every recipe's structs and their reading. Imports nothing that trains."""
