mod least_squares;
