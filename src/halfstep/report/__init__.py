"""What was lost, and where: measurements, tables, the HTML page."""
