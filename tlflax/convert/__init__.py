"""Other frameworks' weight files become tlflax variables."""
