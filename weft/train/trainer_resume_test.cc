// Runs that end early: resuming, and which checkpoint is left.
#include <signal.h>
#include <sys/resource.h>

#include <chrono>
#include <thread>

#include "weft/train/checkpoint.h"
#include "weft/train/testing.h"

namespace weft {
namespace {

namespace fs = std::filesystem;

TEST_F(TrainerTest, ResumesAtAnyNumberOfRanks) {
  options_.out = folder_ + "/whole";
  const std::vector<double> whole = losses(options_, dense_plan());
  // The learning rate depends on the planned steps, so the first half is a run that is cut short.
  options_.out = folder_ + "/half";
  StopFlag stop;
  EXPECT_THROW(train(
                   options_, dense_plan(),
                   [&](const StepReport& r) {
                     if (r.step == 6) {
                       stop.raise();
                       std::this_thread::sleep_for(std::chrono::milliseconds(200));
                     }
                   },
                   stop),
               Error);
  for (const int ranks : {1, 2, 4}) {
    TrainOptions resumed = options_of_checkpoint(folder_ + "/half/checkpoints/step-4");
    EXPECT_EQ(resumed.model, options_of_checkpoint(folder_ + "/whole").model);
    resumed.ranks = ranks;
    resumed.out = folder_ + "/resumed-" + std::to_string(ranks);
    std::vector<double> rest = losses(resumed, gather_plan());
    EXPECT_EQ(last_.first_step, 5);
    std::vector<double> all(whole.begin(), whole.begin() + 4);
    all.insert(all.end(), rest.begin(), rest.end());
    expect_close(all, whole, 1e-5);
  }
  TrainOptions same = options_of_checkpoint(folder_ + "/half");
  const std::vector<double> rest = losses(same, dense_plan());
  EXPECT_EQ(rest, std::vector<double>(whole.begin() + 4, whole.end()));  // bit by bit
  EXPECT_EQ(read_file(folder_ + "/half/model/model.safetensors"),
            read_file(folder_ + "/whole/model/model.safetensors"));
}

TEST_F(TrainerTest, RefusesToResumeWhatDoesNotFit) {
  options_.out = folder_ + "/out";
  losses(options_, dense_plan());
  TrainOptions resumed = options_of_checkpoint(options_.out);
  error_of(resumed, ErrorCode::usage, dense_plan());  // all steps done
  resumed.steps = 20;
  write_file(options_.text + "/new", "more text");
  EXPECT_NE(error_of(resumed, ErrorCode::usage, dense_plan()).find("--init"), std::string::npos);
  fs::remove(options_.text + "/new");
  const std::string state = options_.out + "/checkpoints/step-12/state.json";
  const std::string good = read_file(state);
  for (const std::string& bad :
       {std::string("{"), std::string("{}"), std::string("[]"), good.substr(0, good.size() / 2)}) {
    write_file(state, bad);
    EXPECT_THROW(options_of_checkpoint(options_.out), Error);
  }
  write_file(state, good);
  write_file(options_.out + "/checkpoints/step-12/optimizer.safetensors", "x");
  error_of(resumed, ErrorCode::format, dense_plan());
  EXPECT_THROW(options_of_checkpoint(folder_ + "/text"), Error);
  EXPECT_THROW(options_of_checkpoint(folder_ + "/none"), Error);
}

TEST_F(TrainerTest, AnInterruptKeepsTheLastCheckpoint) {
  options_.out = folder_ + "/out";
  options_.ranks = 2;
  StopFlag stop;
  const auto on_step = [&](const StepReport& r) {
    if (r.step == 6) stop.raise();
    if (r.step >= 6) std::this_thread::sleep_for(std::chrono::milliseconds(100));
  };
  try {
    train(options_, gather_plan(), on_step, stop);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::stopped);
    EXPECT_NE(std::string(error.what()).find("checkpoints/step-4"), std::string::npos);
  }
  EXPECT_EQ(find_checkpoint(options_.out), options_.out + "/checkpoints/step-4");
  EXPECT_FALSE(fs::exists(options_.out + "/model"));
}

TEST_F(TrainerTest, AFullDiskKeepsTheLastCheckpoint) {
  options_.out = folder_ + "/out";
  rlimit old;
  ::getrlimit(RLIMIT_FSIZE, &old);
  const auto old_handler = ::signal(SIGXFSZ, SIG_IGN);
  const auto on_step = [&](const StepReport& r) {
    if (r.step != 6) return;
    rlimit small = old;
    small.rlim_cur = 4096;
    ::setrlimit(RLIMIT_FSIZE, &small);
  };
  try {
    train(options_, dense_plan(), on_step, never_);
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::io) << error.what();
  }
  ::setrlimit(RLIMIT_FSIZE, &old);
  ::signal(SIGXFSZ, old_handler);
  const fs::path checkpoints = options_.out + "/checkpoints";
  EXPECT_EQ(std::distance(fs::directory_iterator(checkpoints), fs::directory_iterator()), 1);
  TrainOptions resumed = options_of_checkpoint(options_.out);
  losses(resumed, dense_plan());
  EXPECT_EQ(last_.first_step, 5);
}

TEST_F(TrainerTest, DoesNotOverwriteAnotherRun) {
  options_.out = folder_ + "/out";
  losses(options_, dense_plan());
  EXPECT_NE(error_of(options_, ErrorCode::usage, dense_plan()).find("--resume"), std::string::npos);
  options_.overwrite = true;
  options_.steps = 5;
  losses(options_, dense_plan());
  EXPECT_EQ(find_checkpoint(options_.out), options_.out + "/checkpoints/step-5");
}

}  // namespace
}  // namespace weft
