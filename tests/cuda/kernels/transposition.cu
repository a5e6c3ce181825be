// Transposes a matrix in tiles of 16 by 16 through shared memory, so that reads and writes both run along rows. The
// tile's rows are one element longer, which spreads a column over the banks.
#define TILE 16
extern "C" __global__ void transpose(const float* __restrict__ x, float* __restrict__ y, int rows, int columns)
{
    __shared__ float tile[TILE][TILE + 1];
    const int first_row = blockIdx.y * TILE, first_column = blockIdx.x * TILE;
    const int row = first_row + threadIdx.y, column = first_column + threadIdx.x;
    if (row < rows && column < columns) tile[threadIdx.y][threadIdx.x] = x[row * columns + column];
    __syncthreads();
    const int new_row = first_column + threadIdx.y, new_column = first_row + threadIdx.x;
    if (new_row < columns && new_column < rows) y[new_row * rows + new_column] = tile[threadIdx.x][threadIdx.y];
}
