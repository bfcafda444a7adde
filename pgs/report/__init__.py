"""The paper's tables with our rows below them."""
