"""Teachers: frozen models, label packs, and the command's labeller."""
