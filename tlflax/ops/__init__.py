"""Operations written so that they are fast on CPU as well."""
