"""MariaDB, and MySQL, which is spoken to as MariaDB."""
