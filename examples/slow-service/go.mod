module slow-service

go 1.19
