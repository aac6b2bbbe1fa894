"""Objects of a synthetic take: meshes of tools and vessels, and the catalogue that draws them by seed."""
