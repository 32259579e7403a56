// Threads that go through the same work side by side, each doing a part of it: those of torch's own OpenMP runtime.
#pragma once

#include <sched.h>

#include <atomic>
#include <cstdint>
#include <vector>

namespace polytask {

constexpr int PATIENCE = 4096;  // looks for the others before a thread that waits lets another process run

inline void (*parallel)(void (*)(void*), void*, unsigned, unsigned) = nullptr;  // GOMP_parallel
inline int (*members)() = nullptr, (*number)() = nullptr;  // omp_get_num_threads, omp_get_thread_num

class Team {
 public:
  struct Meeting {
    alignas(64) std::atomic<int64_t> next{0};
    alignas(64) std::atomic<int> here{0};
    alignas(64) std::atomic<unsigned> passed{0};
    float* room = nullptr;
  };

  Team(Meeting& meeting, int rank, int size) : rank(rank), size(size), meeting(meeting) {}

  const int rank, size;

  // Until all are here; then what each wrote before is there for all.
  void wait() {
    if (size == 1) return;
    const unsigned turn = meeting.passed.load(std::memory_order_acquire);
    if (meeting.here.fetch_add(1, std::memory_order_acq_rel) + 1 == size) {
      meeting.here.store(0, std::memory_order_relaxed), meeting.next.store(0, std::memory_order_relaxed);
      meeting.passed.store(turn + 1, std::memory_order_release);
      return;
    }
    for (int i = 0; meeting.passed.load(std::memory_order_acquire) == turn; i++) i < PATIENCE ? rest() : (void)sched_yield();
  }

  // Gives each thread pieces of `count` ones, multiples of `least` of them, and waits. First large pieces and then
  // ever smaller ones: memory is read faster in long stretches, and a thread that is held up holds up nobody.
  template <class F> void share(int64_t count, int64_t least, const F& work) {
    if (size == 1) return count > 0 ? work(0, count) : void();
    for (int64_t start = meeting.next.load(std::memory_order_relaxed); start < count;) {
      const int64_t part = (count - start) / (2 * size) / least * least;
      const int64_t end = count - start <= least ? count : start + (part < least ? least : part);
      if (meeting.next.compare_exchange_weak(start, end, std::memory_order_relaxed)) work(start, end), start = end;
    }
    wait();
  }

  // Room of each thread's own, and room that all share until the next call; what was in it is gone.
  float* own(int64_t count) {
    static thread_local std::vector<float> room;
    if ((int64_t)room.size() < count) room.resize(count);
    return room.data();
  }
  float* common(int64_t count) {
    static thread_local std::vector<float> room;
    if (rank == 0 && (int64_t)room.size() < count) room.resize(count);
    if (rank == 0) meeting.room = room.data();
    wait();
    return meeting.room;
  }

 private:
  Meeting& meeting;

  static void rest() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }
};

// work(team) by so many threads.
template <class F> void together(int threads, const F& work) {
  Team::Meeting meeting;
  if (threads <= 1 || !parallel) {
    Team alone(meeting, 0, 1);
    return work(alone);
  }
  struct Task { const F& work; Team::Meeting& meeting; } task{work, meeting};
  parallel(
      [](void* given) {
        auto& task = *(Task*)given;
        Team team(task.meeting, number(), members());
        task.work(team);
      },
      &task, threads, 0);
}

}  // namespace polytask
