"""Databases as branches: what is said to PostgreSQL, MariaDB/MySQL and SQLite, over the connection that the caller has."""
