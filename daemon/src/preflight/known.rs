//! What programs have said about themselves: they are asked once, since that takes most of a preflight, and again
//! when another file has taken their place.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::probe;
use crate::sys::files::FileId;

/// The answers of programs that are still the same files.
#[derive(Debug, Default)]
pub struct Known(RefCell<Answers>);

#[derive(Debug, Default)]
struct Answers {
    /// The environment in which all of them answered.
    environment: BTreeMap<String, String>,
    /// By program and argument.
    answers: BTreeMap<(PathBuf, &'static str), (FileId, String)>,
}

impl Known {
    /// The same as [`probe::ask`], which is only done if the answer is not known. What a program did not
    /// say is asked again.
    pub(super) async fn ask(
        &self,
        program: &Path,
        argument: &'static str,
        environment: &BTreeMap<String, String>,
    ) -> Result<Option<String>, String> {
        let file = FileId::at(program);
        if let Some(answer) =
            file.and_then(|file| self.answer(program, argument, environment, file))
        {
            return Ok(Some(answer));
        }
        let answer = probe::ask(program, &[argument], environment).await?;
        if let (Some(file), Some(answer)) = (file, &answer) {
            let mut known = self.0.borrow_mut();
            if known.environment != *environment {
                *known = Answers { environment: environment.clone(), ..Answers::default() };
            }
            known.answers.insert((program.to_owned(), argument), (file, answer.clone()));
        }
        Ok(answer)
    }

    fn answer(
        &self,
        program: &Path,
        argument: &'static str,
        environment: &BTreeMap<String, String>,
        file: FileId,
    ) -> Option<String> {
        let known = self.0.borrow();
        let (then, answer) = known.answers.get(&(program.to_owned(), argument))?;
        (*then == file && known.environment == *environment).then(|| answer.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::preflight::testing::Machine;

    #[tokio::test(flavor = "current_thread")]
    async fn a_program_is_asked_again_only_when_it_is_another() {
        let machine = Machine::bare();
        let counting = |says: &str| format!("echo x >>$COUNT; {says}");
        let program = machine.program("/p", &counting("echo 1"));
        let count = machine.path("/count");
        let environment = |more: &str| {
            BTreeMap::from([
                ("COUNT".to_owned(), count.display().to_string()),
                ("MORE".to_owned(), more.to_owned()),
            ])
        };
        let asked = || fs::read_to_string(&count).map_or(0, |text| text.lines().count());
        let known = Known::default();
        let ask = async |more| known.ask(&program, "--version", &environment(more)).await;
        for _ in 0..2 {
            assert_eq!(ask("").await, Ok(Some("1\n".into())));
        }
        assert_eq!(asked(), 1);
        assert_eq!(ask("else").await, Ok(Some("1\n".into())));
        assert_eq!(asked(), 2);

        let new = machine.program("/p.new", &counting("echo 2"));
        fs::rename(new, &program).unwrap();
        for _ in 0..2 {
            assert_eq!(ask("else").await, Ok(Some("2\n".into())));
        }
        assert_eq!(asked(), 3);
        // One that says nothing may, the next time.
        machine.program("/p", &counting("exit 1"));
        for times in [4, 5] {
            assert_eq!(ask("else").await, Ok(None));
            assert_eq!(asked(), times);
        }
    }
}
