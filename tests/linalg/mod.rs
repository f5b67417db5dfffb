mod ellipsoid;
mod least_squares;
