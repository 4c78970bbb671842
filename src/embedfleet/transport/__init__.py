"""How bytes become requests and answers become bytes, and who may ask."""
