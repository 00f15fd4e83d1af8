"""What is kept: sessions in an Optuna storage, exports, and files that are read within bounds."""
