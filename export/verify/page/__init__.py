"""The report page of ``palmtop verify --report``: one self-contained HTML file."""
