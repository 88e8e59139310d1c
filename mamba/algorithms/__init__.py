"""What a platform deploys: recommenders and moderators. They know ports and views, not the world's internals."""
