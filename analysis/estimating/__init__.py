"""What an estimator is asked and answers, and the forms that it can have."""
